"""The two drivers of one system: ``ray`` connects real processes, ``virtual`` plays them on a virtual clock."""
