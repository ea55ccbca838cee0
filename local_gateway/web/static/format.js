// Numbers and times as people read them.

const COUNT = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (value) => (value == null ? "–" : COUNT.format(value));
export const short = (value) => (value == null ? "–" : value < 10_000 ? COUNT.format(value) : SHORT.format(value));

export function seconds(value) {
  if (value == null) return "–";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 90) return `${Math.round(value)} s`;
  const minutes = Math.round(value / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.round(minutes / 6) / 10} h`;
}

// Costs are in the currency of the configured prices, which has no name here.
export function money(value) {
  if (value == null) return "–";
  if (value === 0) return "0";
  if (value < 0.0001) return "< 0.0001";
  return value.toFixed(value < 1 ? 4 : 2);
}

export const speed = (value) => (value == null ? "–" : value > 0 && value < 10 ? value.toFixed(1) : COUNT.format(value));

export const clock = (epoch) => new Date(epoch * 1000).toLocaleTimeString("en-GB");
export const day = (epoch) => new Date(epoch * 1000).toISOString().slice(0, 10);
export const daysAgo = (days) => day(Date.now() / 1000 - days * 86400);
