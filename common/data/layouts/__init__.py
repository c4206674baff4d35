"""How data sets lie in their folders as they are distributed: from there to a datalist."""
