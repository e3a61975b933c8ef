"""`isoloss plan`: what a design takes and what it could tell, before anything is spent; and what it took, after."""
