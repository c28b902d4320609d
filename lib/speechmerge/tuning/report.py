def page(numbers): return "<html></html>"
