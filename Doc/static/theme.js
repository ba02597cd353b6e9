/* The button for light and dark, where the theme's own script does not run: in Debian 12
 * that script is a module and is loaded as none. */
"use strict";

document.addEventListener("DOMContentLoaded", () => {
    const page = document.documentElement, body = document.body;
    if (!page.classList.contains("no-js")) {
        return;
    }
    page.classList.remove("no-js");
    const order = ["auto", "light", "dark"];
    for (const button of document.getElementsByClassName("theme-toggle")) {
        button.addEventListener("click", () => {
            const next = order[(order.indexOf(body.dataset.theme) + 1) % order.length];
            body.dataset.theme = next;
            localStorage.setItem("theme", next);
        });
    }
});
