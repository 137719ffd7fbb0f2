-- Groups tell themselves until which day they had usage.
DELETE FROM usage_kept WHERE span = 0;
