// The theme: the system's, or one chosen here and kept in this browser.

const NEXT = { system: "light", light: "dark", dark: "system" };

/** A button that goes round the themes; `onChange` when colours have changed, also by the system. */
export function themeButton(button, onChange) {
  const root = document.documentElement;
  const label = () => {
    button.textContent = `Theme: ${root.dataset.theme ?? "system"}`;
  };
  button.addEventListener("click", () => {
    const next = NEXT[root.dataset.theme ?? "system"];
    if (next === "system") delete root.dataset.theme;
    else root.dataset.theme = next;
    try {
      localStorage.setItem("negotiator.theme", next);
    } catch {
      // storage is blocked: the choice holds for this page
    }
    label();
    onChange();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", onChange);
  label();
}
