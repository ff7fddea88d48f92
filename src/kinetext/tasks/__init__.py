"""Role folder."""
