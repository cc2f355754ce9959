"""For tests of one's own lanes: real servers and workers, started by hand."""
