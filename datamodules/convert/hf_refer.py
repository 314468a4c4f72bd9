"""The rows of jxu124's RefCOCO, RefCOCO+ and RefCOCOg: a ref each, its annotation as JSON text, and no picture."""

from __future__ import annotations

from collections.abc import Mapping

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.hf_forms import Cells, RowForm, RowImage, from_json
from datamodules.convert.polygons import Rasteriser
from datamodules.convert.refer_photos import PhotoFinder
from datamodules.convert.rows import PhotoFile, RowTarget
from datamodules.convert.rows_masks import BAD, coco_source, short
from datamodules.convert.rows_texts import BAD_ROW, read_text, read_texts

REFER_COLUMNS = ("image_id", "image_path", "raw_anns", "ref_id")


class ReferRows(RowForm):
    """Rows of refs.

    Args:
        available: columns of the files.
        finder: where the photos are.
        rasteriser: rule for polygons.
    """

    name = "refer rows"

    def __init__(self, available: Mapping[str, str], finder: PhotoFinder, rasteriser: Rasteriser) -> None:
        self._texts = next((name for name in ("captions", "sentences") if name in available), "")
        if not self._texts:
            raise BadSourceError(
                "--input has refs (image_path, raw_anns), but neither a column captions nor one of sentences, so there "
                "is no question. Fetch the whole dataset anew, or name columns with --image-column and the like."
            )
        self.split_column = "split" if "split" in available else ""
        extra = [name for name in ("raw_image_info", self.split_column) if name in available]
        self.image_columns = ("image_id", "image_path", *extra)
        self.columns = (*REFER_COLUMNS, self._texts, *extra)
        self._finder = finder
        self._rasteriser: Rasteriser = rasteriser

    def image(self, cells: Cells, where: str) -> RowImage:
        """See :meth:`RowForm.image`."""
        image_id = cells.get("image_id")
        if isinstance(image_id, str) and image_id.isascii() and image_id.isdigit():
            image_id = int(image_id)
        if type(image_id) is not int:
            raise BadItemError(BAD_ROW, f"{where}: image_id must be a number, got {short(image_id)}")
        name = read_text(dict(cells), "image_path", where)
        path = self._finder.find(name, image_id)
        info = from_json(cells.get("raw_image_info"))
        height, width = (info.get("height"), info.get("width")) if isinstance(info, dict) else (None, None)
        size = (height, width) if type(height) is int and type(width) is int else None
        photo = None if path is None else PhotoFile(path)
        return RowImage(f"{image_id}", str(image_id), name.rpartition("/")[2], photo, size)

    def target(self, cells: Cells, where: str) -> RowTarget:
        """See :meth:`RowForm.target`; a ref without a sentence gives a target without an expression."""
        annotation = from_json(cells.get("raw_anns"))
        if not isinstance(annotation, dict):
            raise BadItemError(BAD_ROW, f"{where}: raw_anns must be a COCO annotation as JSON, got {short(annotation)}")
        ref_id = cells.get("ref_id")
        if type(ref_id) not in (int, str):
            raise BadItemError(BAD_ROW, f"{where}: ref_id must be a number or a text, got {short(ref_id)}")
        texts = cells.get(self._texts)
        if not isinstance(texts, list):
            raise BadItemError(BAD_ROW, f"{where}: {self._texts} must be a list, got {short(texts)}")
        sentences = [text.get("sent") if isinstance(text, dict) else text for text in texts]
        kept = [text for text in sentences if text is None or not isinstance(text, str) or text.strip()]
        expressions = read_texts({self._texts: kept}, self._texts, where) if kept else []
        try:
            mask = coco_source(annotation.get("segmentation"), where, self._rasteriser)
        except ValueError as error:
            raise BadItemError(BAD, str(error)) from error
        return RowTarget(str(ref_id), expressions, [mask], [where], kind="referring")
