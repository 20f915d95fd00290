"""The certificate as one self-contained HTML page: no network, no other file. No torch here."""
