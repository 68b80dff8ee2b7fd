"""Explorer: processes on a page of this machine, answered at once. All but `page` knows nothing of how the page is made."""
