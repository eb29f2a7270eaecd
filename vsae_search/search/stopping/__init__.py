"""What is not worth finishing: trials that fall behind at a rung, and architectures of which nothing comes."""
