// The package's built file holds chemistry and physics too, which is 10 kB more.
declare module "temml/temml.js" {
  export { default } from "temml";
}
