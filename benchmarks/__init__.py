"""What is compared, each with a make target; figures go to reports/."""
