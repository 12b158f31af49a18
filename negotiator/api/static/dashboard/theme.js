// Before the first paint: the theme chosen in this browser, if one was. Everything else is the system's choice.
"use strict";
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("negotiator.theme");
  } catch {
    // storage is blocked: the system's choice stands
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
