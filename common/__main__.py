"""The command line: ``python -m common COMMAND``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.command_line import HELP, explanation, find, overview
from common.command_words import refuse_unfit, spelled
from common.errors import told


class Phantom:
    """Invented images in the layout of a real data set, to try everything out without patient data."""

    def jsrt(self, directory: str, patients: int = 40, size: int = 128, seed: int = 0, fine: bool = False) -> None:
        """Write chest radiographs with lungs, heart and clavicles as JSRT distributes them.

        Args:
            directory: folder to make; it must not hold anything yet.
            patients: number of patients, one radiograph each.
            size: side of an image in pixels; 2048 for JSRT's own.
            seed: the same seed gives the same patients.
            fine: also write masks of lobes, heart chambers, vessels, single ribs and vertebrae (71 classes) to
                fine/<class>; the images are the same.
        """
        from common.phantoms.jsrt import make_jsrt_phantom

        folder = make_jsrt_phantom(directory, patients=patients, size=size, seed=seed, fine=fine)
        print(f"Wrote {patients} patients to {folder}")

    def ms(
        self,
        directory: str,
        labeled: int = 6,
        unlabeled: int = 12,
        test: int = 8,
        size: int = 90,
        seed: int = 0,
        scanners: int = 4,
    ) -> None:
        """Write brain MRI with lesions of multiple sclerosis from several scanners, in the layout of ISBI 2015.

        Args:
            directory: folder to make; it must not hold anything yet.
            labeled: number of patients of the first scanner, with masks of two raters.
            unlabeled: number of patients of the other scanners.
            test: number of test patients of all scanners.
            size: voxels along y, for 180 mm; 90 for voxels of 2 mm.
            seed: the same seed gives the same patients.
            scanners: number of scanners, 1 to 4.
        """
        from common.phantoms.isbi import make_ms_phantom

        folder = make_ms_phantom(directory, labeled, unlabeled, test, size, seed, scanners)
        print(f"Wrote {labeled + unlabeled + test} patients to {folder}")

    def acdc(self, directory: str, patients: int = 24, size: int = 96, slices: int = 8, seed: int = 0) -> None:
        """Write short-axis MRI of hearts with both ventricles and the myocardium, in the layout of ACDC.

        Args:
            directory: folder to make; it must not hold anything yet.
            patients: number of patients, two frames each.
            size: voxels along a row, for 288 mm.
            slices: number of slices of a frame.
            seed: the same seed gives the same patients.
        """
        from common.phantoms.acdc import make_acdc_phantom

        folder = make_acdc_phantom(directory, patients, size, slices, seed)
        print(f"Wrote {patients} patients to {folder}")

    def retouch(
        self,
        directory: str,
        volumes: int = 14,
        size: int = 96,
        slices: int = 9,
        vendors: list | None = None,
        seed: int = 0,
    ) -> None:
        """Write OCT volumes of retinas with intraretinal and subretinal fluid and PED, in the layout of RETOUCH.

        Args:
            directory: folder to make; it must not hold anything yet.
            volumes: number of volumes of each vendor, one of each patient.
            size: pixels along a row and a column of a B-scan, for 6 mm and about 2 mm.
            slices: number of B-scans.
            vendors: which devices, "[Spectralis, Cirrus, Topcon]"; Spectralis alone by default.
            seed: the same seed gives the same volumes.
        """
        from common.phantoms.retouch import make_retouch_phantom

        vendors = [vendors] if isinstance(vendors, str) else list(vendors or ["Spectralis"])
        folder = make_retouch_phantom(directory, volumes, size, slices, vendors, seed)
        print(f"Wrote {volumes} volumes of each of {len(vendors)} vendors to {folder}")

    def lgg(self, directory: str, patients: int = 24, size: int = 64, slices: int = 20, seed: int = 0) -> None:
        """Write slices of brain MRI with low-grade gliomas from four sites, in the layout of TCGA-LGG.

        Args:
            directory: folder to make; it must not hold anything yet.
            patients: number of patients.
            size: pixels along a row, for 240 mm.
            slices: number of slices of a patient.
            seed: the same seed gives the same patients.
        """
        from common.phantoms.lgg import make_lgg_phantom

        folder = make_lgg_phantom(directory, patients, size, slices, seed)
        print(f"Wrote {patients} patients to {folder}")


class Convert:
    """Data sets in other forms than they are distributed in."""

    def acdc(self, source: str, destination: str, spacing: list | None = None) -> None:
        """Make NIfTI volumes, as the challenge distributes them, of ACDC's slices as PNG or h5.

        Args:
            source: folder with images/patient001_frame01_slice00.png and labels/, or with patient001_frame01.h5 or
                patient001_frame01_slice_1.h5 (which need the package h5py).
            destination: folder to write to.
            spacing: side of the voxels in mm, "[1.5, 1.5, 10]", if you know it; such files do not tell.
        """
        from common.data.layouts.acdc_slices import convert_acdc

        convert_acdc(source, destination, spacing or (1, 1, 1))

    def dicom(self, source: str, destination: str) -> None:
        """Make NIfTI volumes of DICOM files of several frames (OCT, say) and of folders with a series.

        Args:
            source: a DICOM file of several frames, or a folder: all such files and all series below it.
            destination: folder to write to, where each volume is called after its file, or after its series' folder.
        """
        from common.data.convert import convert_dicom

        convert_dicom(source, destination)


class Commands:
    """Tools around the bundles: phantoms, datalists and their checks, comparisons and reports."""

    def fit(
        self,
        images: str,
        output: str,
        masks: str | dict | None = None,
        labels: str | None = None,
        unlabeled: str | None = None,
        patients: str | None = None,
        labeled: int = 3,
        split: int = 0,
        seed: int = 0,
        validation: int = 5,
        test: int | None = None,
        classes: list | None = None,
        mode: str | None = None,
        method: str = "UniMatch",
        minutes: float = 20.0,
        resume: bool = False,
        plan_only: bool = False,
    ) -> None:
        """Train a model on a folder of images or volumes, and the labels alone beside it, and compare the two.

        Makes a datalist, reads every file, plans size, patches, batch and epochs for the machine, trains the baseline
        and the method for the same number of iterations, scores both on the test images, and ends with a table, a
        report and a bundle that segments new images. Every step is also a command of its own: the plan is a grid file.

        Args:
            images: folder of the annotated images (PNG, TIFF, JPEG, DICOM, NIfTI, MHD) or volumes (NIfTI, MHD, folders
                of DICOM slices).
            output: folder of the result; gets datalist.json, plan.yaml, tables.md, results.csv, report.html, the runs
                and bundle, the method's.
            masks: a mask folder for each class, "{'right_lung': DIR, 'left_lung': DIR}".
            labels: instead of masks, a folder of label maps: 0 is background, 1 the first class and so on.
            unlabeled: folder of the images without masks; without any, the labels alone are trained on.
            patients: CSV with a column image and a column patient, so that a patient's images stay together.
            labeled: number of labelled images to train on; every class occurs among them.
            split: index of the split.
            seed: seed of the draw.
            validation: number of images that choose the best epoch.
            test: number of patients to test on; without it, all that are left.
            classes: with labels: the names of the values 1, 2 and so on.
            mode: multilabel (classes may overlap; the default with masks) or multiclass (the default with labels).
            method: the method, a name of common.methods.
            minutes: about how long each of the two trainings may take.
            resume: go on in a folder that was stopped, or whose plan has been made and perhaps edited.
            plan_only: stop when the plan is made.
        """
        from common.fit import fit

        data = {"masks": masks, "labels": labels, "unlabeled": unlabeled, "patients": patients}
        draw = {"labeled": labeled, "split": split, "seed": seed, "validation": validation, "test": test}
        fit(images, output, data | draw | {"classes": classes, "mode": mode}, method, minutes, resume, plan_only)

    def grid(
        self,
        file: str,
        output: str,
        cores: int | None = None,
        dry_run: bool = False,
        tables_only: bool = False,
        snakemake: str = "",
        trusted: bool = False,
    ) -> None:
        """Train methods x numbers of labelled images x splits x seeds of a grid file: tables, figures and a report.

        A grid that was stopped goes on where it was. Ends with status 1 when a cell failed; the others are run.

        Args:
            file: the grid's YAML file; grids/ holds examples, among them the demonstrations.
            output: the grid's folder; gets tables.md, results.csv, report.html and cells/.
            cores: number of models trained at the same time; by default one for each core, and a single one where
                there is a GPU.
            dry_run: list the cells and how long they will take, run nothing.
            tables_only: run nothing, write the tables and reports of what there is.
            snakemake: options of Snakemake, to run the cells by it, as --snakemake="--executor slurm --jobs 40".
            trusted: the file may hold expressions ($...) and any _target_, which run code: know where it is from.
        """
        from common.grid.make import run_and_report

        lost = run_and_report(file, output, cores, dry_run, tables_only, snakemake, trusted)
        if lost:
            sys.exit("\n".join([f"Error: {len(lost)} cells failed, and are tried again by the same command:", *lost]))

    def preprocess(
        self, source: str, destination: str, spacing: float = 1.0, n4: bool = True, extract_brain: bool = True
    ) -> None:
        """Bring brain MRI into the form that training wants: RAS, 1 mm, N4, brain extracted, normalised; as new files.

        What has been done with the same settings is skipped, and what cannot be read is named and left out.

        Args:
            source: folder of NIfTI files, MHD, NRRD or DICOM series, with masks of lesions beside them.
            destination: folder to write to, with the same relative names.
            spacing: side of the voxels in mm.
            n4: correct the bias field.
            extract_brain: look for the brain where it has not been extracted.
        """
        from common.data.preprocess import preprocess

        preprocess(source, destination, spacing, n4, extract_brain)

    def check(self, datalist: str) -> None:
        """Read every file of a datalist and say what is wrong with it; ends with status 1 when something is.

        Args:
            datalist: the JSON file made by ``python -m common datalist``.
        """
        from common.data.check import check

        check(datalist)

    def untrained(self, bundle: str) -> None:
        """Write the weights that a training of a bundle begins with as its model: MONAI Label wants one.

        What they segment means nothing. A model that is there stays.

        Args:
            bundle: the bundle's folder: the copy in MONAI Label's app.
        """
        from common.untrained import save_untrained

        print(f"Wrote {save_untrained(bundle)}: an untrained network, whose masks mean nothing.")

    def report(self, run_dir: str) -> None:
        """Render ``report.html`` of a run, or of a folder of runs to compare them.

        Args:
            run_dir: the run's folder (with run.json), or a folder that holds several.
        """
        from common.report import render

        print(f"Report: {Path(render(run_dir)).resolve()}")

    def annotate(
        self,
        run_dir: str,
        strategy: str = "distance",
        by: str = "image",
        count: int = 10,
        output: str | None = None,
        seed: int = 0,
    ) -> None:
        """List which of a run's unlabelled images to annotate next.

        Args:
            run_dir: folder of a run; the images are those that its datalist has no label of.
            strategy: distance from all labelled images, disagreement of the network with itself on changed images,
                weight that the method gives pseudo-labels, or random.
            by: image, or patient with all images.
            count: how many to list, the most promising first, each with its score.
            output: CSV file to write, with all images in their order.
            seed: seed of the changes, and of the random order.
        """
        from common.annotation import open_order, write_order
        from common.data.splits import check_numbers

        check_numbers(count=(count, 1))
        if output is not None and not Path(output).absolute().parent.is_dir():
            raise FileNotFoundError(f"output must be a file in a folder that is there, got {output}: make the folder.")
        order = open_order(run_dir, seed)
        places = order.places(strategy, by)
        for number, place in enumerate(places[:count], start=1):
            print(f"{number:>4}  {place.score:.4f}  {place.name}")
        if output is not None:
            print(f"Wrote all {len(places)} to {write_order(places, order, output)}")

    def package(self, run_dir: str, output: str) -> None:
        """Pack the bundle of a run and the shared code into one zip file, which needs no repository.

        Args:
            run_dir: folder of a run, or another trained bundle.
            output: the zip file to write.
        """
        from common.portable import package

        print(f"Wrote {package(run_dir, output)}: look at one that you are given by `python -m common verify`.")

    def export(self, run_dir: str, output: str) -> None:
        """Write the network of a run as ONNX, TorchScript or OpenVINO, for programs other than MONAI's bundles.

        It takes the image as the preprocessing of inference.json leaves it, any number of images of any size whose
        sides are multiples of 16, and gives logits. Not in it are preprocessing, sliding windows, the decision for a
        mask and the way back to the image's own pixels.

        Args:
            run_dir: folder of a run, or another trained bundle.
            output: the file to write; its suffix picks the form: .onnx (needs onnx and onnxruntime); .ts, TorchScript
                with the bundle's metadata and inference.json inside, as MONAI Deploy reads it; .xml, OpenVINO's, which
                also writes a .bin beside it (needs openvino).
        """
        from common.portable import export

        print(f"Wrote {export(run_dir, output)}, which gives what the network gives.")

    def verify(self, file: str, output: str | None = None, trusted: bool = False) -> None:
        """Look at a bundle before any of it runs, and list what it would run; status 1 when it must not.

        Of a folder that holds nothing strange, the checks of MONAI's model zoo follow, as far as they need no data.

        Args:
            file: the zip file, or the folder of a run or of another trained bundle.
            output: folder to make, for what was verified.
            trusted: the folder is your own: code that this installation does not have is run, not refused.
        """
        from common.portable import verify

        verify(file, output, trusted)


def commands() -> dict[str, Any]:
    """All commands by name. What they need is imported when they run: explaining them takes no time."""
    from common.data import (
        acdc_datalist,
        decathlon_datalist,
        folder_datalist,
        isbi_datalist,
        jsrt_datalist,
        lgg_datalist,
        monailabel_datalist,
        patients_datalist,
        retouch_datalist,
    )

    phantom, convert, tools = Phantom(), Convert(), Commands()
    return {
        "fit": tools.fit,
        "grid": tools.grid,
        "datalist": {
            "folder": folder_datalist,
            "jsrt": jsrt_datalist,
            "acdc": acdc_datalist,
            "retouch": retouch_datalist,
            "lgg": lgg_datalist,
            "decathlon": decathlon_datalist,
            "patients": patients_datalist,
            "isbi": isbi_datalist,
            "monailabel": monailabel_datalist,
        },
        "check": tools.check,
        "convert": {"acdc": convert.acdc, "dicom": convert.dicom},
        "preprocess": tools.preprocess,
        "untrained": tools.untrained,
        "report": tools.report,
        "annotate": tools.annotate,
        "package": tools.package,
        "export": tools.export,
        "verify": tools.verify,
        "phantom": {
            "jsrt": phantom.jsrt,
            "ms": phantom.ms,
            "acdc": phantom.acdc,
            "retouch": phantom.retouch,
            "lgg": phantom.lgg,
        },
    }


def main() -> None:
    """Run a command; an input that cannot be used ends in one line and status 1."""
    import fire

    try:
        name, command, arguments = find(commands(), sys.argv[1:])
        if isinstance(command, Mapping):
            print(overview(name, command))
        elif HELP & set(arguments):
            print(explanation(name, command))
        else:
            refuse_unfit(name, command, arguments)
            fire.Fire(command, command=spelled(command, arguments), name=name)
    except (ValueError, OSError) as error:
        print(f"Error: {told(error)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
