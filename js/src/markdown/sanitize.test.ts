import { describe, expect, test } from "vitest";
import { Blocks } from "./blocks";
import { sanitize } from "./sanitize";

const rendered = (text: string) => new Blocks().render(text).join("");

describe("what a model writes", () => {
  test("becomes text structure", () => {
    expect(rendered("a **b** `c`\n\n- d")).toBe(
      "<p>a <strong>b</strong> <code>c</code></p>\n<ul>\n<li>d</li>\n</ul>\n",
    );
  });

  test.each([
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><a href='javascript:alert(1)'>x</a></svg>",
    "<math><mi//xlink:href='data:x,<script>alert(1)</script>'>",
    "[x](javascript:alert(1))",
    "[x](  JaVaScRiPt:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:msgbox)",
    "<a href='&#106;avascript:alert(1)'>x</a>",
    "<iframe src='https://example.org'></iframe>",
    "<form action='https://example.org'><input name=a><button>b</button></form>",
    "<p style='position:fixed' id='x' class='y' onclick='alert(1)'>z</p>",
    "<style>*{display:none}</style>",
    "<base href='https://example.org'><link rel=stylesheet href=x><meta http-equiv=refresh>",
    "![x](https://example.org/leak.png)",
    "![x](x' onerror='alert(1))",
    "<picture><source srcset='https://example.org/a'><img src='https://example.org/b'></picture>",
    "<video src='https://example.org/v' poster='https://example.org/p'></video>",
    "```<img src=x onerror=alert(1)>\n<script>alert(1)</script>\n```",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<details open ontoggle=alert(1)>x</details>",
  ])("cannot load or run anything: %s", (text) => {
    const page = document.createElement("div");
    page.innerHTML = rendered(text);
    expect(
      page.querySelector(
        "script, style, img, svg, math, iframe, form, input, button, base, link, meta, video, source, object, embed",
      ),
    ).toBeNull();
    for (const element of page.querySelectorAll("*")) {
      for (const { name, value } of element.attributes) {
        expect(name).not.toMatch(/^on|^style$|^id$|^class$|src/);
        if (name === "href") expect(value).toMatch(/^(https?|mailto):/);
      }
    }
  });

  test("has its pictures named, not shown", () => {
    expect(rendered("![a cat](https://example.org/cat.png)")).toContain("[image: a cat]");
    expect(sanitize("<img src='https://example.org/cat.png' alt='a cat'>")).toBe("[image: a cat]");
    expect(rendered('![<b onclick="x">](y)')).not.toContain("<b");
  });

  test("links to the web in a new tab that cannot reach back", () => {
    expect(rendered("[x](https://example.org)")).toContain(
      '<a href="https://example.org" target="_blank" rel="noopener noreferrer">x</a>',
    );
    expect(rendered("[x](mailto:a@example.org)")).toContain("mailto:a@example.org");
    expect(rendered("[x](/relative)")).not.toContain("href");
  });
});
