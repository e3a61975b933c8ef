"""Pictures of a sweep in time: as planned, and as it happened."""
