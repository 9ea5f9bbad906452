"""What each page says, as plain values: its template and its JSON show the same document."""
