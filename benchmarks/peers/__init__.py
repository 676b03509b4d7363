"""The same candidates, evaluated in the ways that others use: fair, and as simple as they are."""
