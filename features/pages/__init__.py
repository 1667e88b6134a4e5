"""HTML pages and figures of the features floor, and the plots and styles that other pages share."""
