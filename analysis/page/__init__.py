"""The HTML of the report: markup that escapes by default, the sections, and the page they stand in."""
