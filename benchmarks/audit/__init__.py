"""Is the audit right where the truth is known?"""
