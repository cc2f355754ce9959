"""How a running call goes on elsewhere: in another lane, with another model, later."""
