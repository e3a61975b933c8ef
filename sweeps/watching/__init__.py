"""What a person sees of a sweep under way: the live table, `isoloss status`, and what the law so far projects."""
