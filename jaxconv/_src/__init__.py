"""Everything internal; the public modules re-export from here."""
