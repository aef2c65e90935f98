"""What a shopper may ask of a shop: who they are stays out of logs, what is known of them can be shown, and is deleted with a receipt."""
