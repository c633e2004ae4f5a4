"""HTTP as the rooms see it: a call comes in, an answer goes out, a route is declared once."""
