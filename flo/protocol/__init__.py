"""Messages, decisions and large bodies that coordinator and sites exchange."""
