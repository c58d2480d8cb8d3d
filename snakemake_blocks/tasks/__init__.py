"""What is declared: tasks, their functions, arrays and resources."""
