/** Small drawings of the chat, strokes on a field of 16 by 16. */
export const STROKES = {
  back: "M10 3.5 5.5 8l4.5 4.5",
  forth: "M6 3.5 10.5 8 6 12.5",
  clip: "M11.5 7.5 7.2 11.8a2 2 0 0 1-2.9-2.9L9.4 3.8a3 3 0 0 1 4.2 4.2l-5.4 5.4a4 4 0 0 1-5.7-5.6",
  page: "M4 2.5h5l3 3v8H4zM9 2.5v3h3",
  away: "M4.5 4.5l7 7M11.5 4.5l-7 7",
};
