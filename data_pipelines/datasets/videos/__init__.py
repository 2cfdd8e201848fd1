"""Data sets of videos: split lists, frames of video files or of folders, in a child process."""
