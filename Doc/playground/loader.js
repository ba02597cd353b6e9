/* Brings a playground to life when the reader comes near it.  Each page of the documentation
 * has this script; all else is loaded by it, from the folder that it lies in.
 *
 * Scripts may be loaded by a page that lies in a file, data may not: so the modules are
 * scripts, too. */

(function () {
"use strict";
const play = globalThis.pymemPlay = globalThis.pymemPlay || {};
const folder = new URL(".", document.currentScript.src).href;
const PARTS = ["program", "machine", "changes", "heapview", "bytesview", "exercises", "view"];
const loads = new Map();

play.load = function (name) {
    if (!loads.has(name)) {
        loads.set(name, new Promise((resolve, reject) => {
            const script = document.createElement("script");
            script.src = `${folder}${name}.js`;
            script.onload = resolve;
            script.onerror = () => reject(new Error(`${script.src} is not there`));
            document.head.append(script);
        }));
    }
    return loads.get(name);
};

async function bring_to_life(box) {
    try {
        for (const part of PARTS) {
            await play.load(part);
        }
        await play.begin(box);
    }
    catch (error) {
        box.parentElement.hidden = true;        /* the picture stays */
        throw error;
    }
}

function begin() {
    const boxes = document.querySelectorAll(".playground[data-play]");
    const watcher = new IntersectionObserver(entries => {
        for (const entry of entries.filter(entry => entry.isIntersecting)) {
            watcher.unobserve(entry.target);
            bring_to_life(entry.target);
        }
    }, {rootMargin: "600px"});
    if (globalThis.WebAssembly !== undefined && globalThis.DecompressionStream !== undefined) {
        document.documentElement.classList.add("pymem-play");
        boxes.forEach(box => watcher.observe(box));
    }
}

if (document.readyState === "loading") {
    document.addEventListener("DOMContentLoaded", begin);
}
else {
    begin();
}
}());
