"""`isoloss launch`: what is missing of a sweep runs through `cluster`'s supervisor, and what its workers do."""
