"""The executor: takes runs from the queue and works through their steps, durably."""
