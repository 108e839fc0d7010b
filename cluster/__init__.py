"""Starting or joining Ray, submitting jobs to it, and the files a cluster needs."""
