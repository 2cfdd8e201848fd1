"""The processes of one run: how they find each other, agree, wait for each other and end."""
