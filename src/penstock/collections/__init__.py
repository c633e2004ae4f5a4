"""Collections: named sets of vectors with attributes, of which a search returns the nearest ones."""
