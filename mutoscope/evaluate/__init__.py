"""From weights to numbers: what is asked, how it is judged, and how sure the figure is."""
