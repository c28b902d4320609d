"""From sources to a site: notebooks that are executed, pages, cards, and where numbers come from."""
