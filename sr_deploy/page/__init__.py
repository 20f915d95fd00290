"""Self-contained HTML pages: no network, no other file. No torch here."""
