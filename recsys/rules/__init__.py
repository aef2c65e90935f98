"""Business rules: one validated file says what may, must and must not be shown, and a request's ranking is made to obey it."""
