"""Speech and language providers: profiles, dispatch to one or several, state, usage and comparisons."""
