"""Plans that bind: what runs again, what readers notice, what it costs; and doing exactly that."""
