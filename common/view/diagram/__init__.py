"""Architecture diagrams as SVG."""
