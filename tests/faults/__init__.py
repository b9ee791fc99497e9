"""What can go wrong with a stream, and how each end learns of it: how it is brought about, one table, and the play."""
