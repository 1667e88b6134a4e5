"""HTML pages and figures of the features floor; plots and styles that other pages share."""
