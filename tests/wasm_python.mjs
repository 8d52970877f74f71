// Plays a script of this project on a CPython that was compiled to WebAssembly; see tests/pythons.py.
//
//     node wasm_python.mjs FOLDER_WITH_PYODIDE PROJECT SCRIPT [ARGUMENT...]
//
// The project is mounted, nothing is installed: only scripts that need nothing but the standard library run here.
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, root, ...argv] = process.argv.slice(2);
const { loadPyodide } = await import(pathToFileURL(join(folder, "node_modules", "pyodide", "pyodide.mjs")));
const python = await loadPyodide({ env: { PYTHONHASHSEED: process.env.PYTHONHASHSEED ?? "random" } });
python.FS.mkdirTree("/project");
python.FS.mount(python.FS.filesystems.NODEFS, { root }, "/project");
python.globals.set("ARGV", python.toPy(argv));
python.runPython(`
import runpy, sys
sys.argv = list(ARGV)
sys.path.insert(0, "/project")
sys.dont_write_bytecode = True
runpy.run_path("/project/" + sys.argv[0], run_name="__main__")
`);
