"""The inputs that engines are exported, calibrated and judged with: draws and images."""
