"""``natsbridge demo --web``: a page that shows how the work behind a tab ends with it."""
