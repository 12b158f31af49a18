"""The house's HTTP door: routes, their models, who may call them, and how answers and errors look on the wire."""
