"""Networks: the student that is trained and the teacher that is asked."""
