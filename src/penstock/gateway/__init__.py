"""The gateway: the HTTP application of all parts, its access check, its health and its documentation."""
