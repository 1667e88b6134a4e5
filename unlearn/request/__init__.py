"""A removal request from a name to an audited model: the stations one after the other, each kept and reused."""
